"""The stream processor that owns agents: pure engine, journal, transaction cycle, restore.

`Engine` decides, `ShardRole` talks to the log. Hands `ShardRole` to the command line and `Engine` to `streams.testing`.
"""
