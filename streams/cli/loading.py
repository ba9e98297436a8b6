"""Finding the `App` that a command line names as `module:app`; what is wrong with the name or the module is said."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from streams.errors import ConfigurationError, StreamsError, UnknownName

if TYPE_CHECKING:
    from streams.app import App

EXAMPLE = "payments.agents:app"


def load_app(name: str) -> App:
    """Return the `App` named `module:variable`; modules of the current directory are found.

    Raises:
        UnknownName: There is no such module, or no such variable in it; says which apps it has.
        ConfigurationError: The name has another form, the variable is no `App`, or the module fails when imported.
    """
    from streams.app import App

    module_name, colon, variable = name.partition(":")
    if not module_name or "/" in module_name or module_name.endswith(".py"):
        raise ConfigurationError(
            f"{name!r} does not name an app; write MODULE:APP with dots for folders, such as {EXAMPLE}"
        )
    module = _import(module_name)
    apps = [f"{module_name}:{key}" for key, value in vars(module).items() if isinstance(value, App)]
    there = f"it has {' and '.join(apps)}" if apps else 'it has none; make one with `app = App("name")`'
    if not colon or not variable:
        raise ConfigurationError(f"{name!r} names a module and no app in it; write MODULE:APP ({there})")
    found: object = module
    for part in variable.split("."):
        if not hasattr(found, part):
            raise UnknownName(f"module {module_name!r} ({_place(module)}) has no app {variable!r}; {there}")
        found = getattr(found, part)
    if not isinstance(found, App):
        raise ConfigurationError(f"{name} is of type {type(found).__name__}, which is no streams.App; {there}")
    return found


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except StreamsError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise UnknownName(
                f"there is no module {missing!r} in {here} or among what is installed; "
                f"run this where it can be imported, or correct the name in {name!r}"
            ) from None
        raise ConfigurationError(f"module {name!r} imports {missing!r}, which is not installed") from error
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigurationError(
            f"module {name!r} cannot be imported: {type(error).__name__}: {error} ({last.filename}:{last.lineno})"
        ) from error


def _place(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or "built in")
