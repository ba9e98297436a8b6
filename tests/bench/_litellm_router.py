"""LiteLLM's router before the mock provider, in an interpreter of its own: it wants another `openai` than this project.

Arguments: base URL, requests a minute, concurrency, requests. Prints one JSON object.
"""

import asyncio
import json
import os
import sys
import time

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["LITELLM_LOG"] = "CRITICAL"


async def main() -> None:
    """Send all requests at once, as an application does that leaves pacing to the router."""
    from litellm import Router  # type: ignore[import-not-found]  # only the other interpreter has it

    url, per_minute, concurrency, count = sys.argv[1], *map(int, sys.argv[2:5])
    model = {
        "model_name": "m",
        "litellm_params": {
            "model": "openai/m",
            "api_base": url,
            "api_key": "k0",
            "rpm": per_minute,
            "max_parallel_requests": concurrency,
        },
    }
    router = Router(model_list=[model], num_retries=5, routing_strategy="simple-shuffle", timeout=60)
    failures: dict[str, int] = {}

    async def ask(number: int) -> bool:
        try:
            await router.acompletion("m", [{"role": "user", "content": f"{number} write 5"}], max_tokens=25)
        except Exception as error:
            name = type(error).__name__
            failures[name] = failures.get(name, 0) + 1
            return False
        return True

    started = time.perf_counter()
    done = await asyncio.gather(*(ask(number) for number in range(count)))
    print(json.dumps({"ok": sum(done), "failures": failures, "took_s": time.perf_counter() - started}))


asyncio.run(main())
