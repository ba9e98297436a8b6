"""Runs mypy over the public API as users meet it: what must pass, and what must be refused."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
PREFIX = (FOLDER / "public_api.py").read_text(encoding="utf-8")

REFUSED = {
    "no fallback": "@app.tool(timeout=1, effect='read')\nasync def bad() -> str: return ''\n",
    "unknown effect": "@app.tool(timeout=1, effect='write', fallback='')\nasync def bad() -> str: return ''\n",
    "wrong argument": "async def bad() -> None:\n    await status(5)\n",
    "unchecked None": "async def bad() -> str:\n    return await maybe('c')\n",
    "wrong input": "async def bad(client: Client) -> None:\n    await client.submit(dispute, Receipt(state=''))\n",
}


def mypy(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--explicit-package-bases", str(path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parents[1], timeout=300, check=False)


@pytest.mark.slow
def test_users_get_the_types_that_the_documentation_promises():
    checked = mypy(FOLDER / "public_api.py")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
def test_mistakes_are_refused(tmp_path: Path):
    for name, code in REFUSED.items():
        path = tmp_path / f"{name.replace(' ', '_')}.py"
        path.write_text(f"{PREFIX}\n\n{code}", encoding="utf-8")
    checked = mypy(tmp_path)
    missed = [name for name in REFUSED if f"{name.replace(' ', '_')}.py" not in checked.stdout]
    assert not missed, f"mypy has accepted {missed}: {checked.stdout}"
