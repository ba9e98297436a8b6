import gc,time
from tests.bench import engine as b
def go(l):
    print(l,[round(min(b._measure("three_steps",2000).step_s for _ in range(3))/2000*1e6) for _ in range(2)])
go("default"); gc.collect(); gc.freeze(); gc.set_threshold(50_000,20,50); go("freeze+50k"); gc.disable(); go("off"); gc.enable(); gc.unfreeze(); gc.set_threshold(700,10,10); go("default")
