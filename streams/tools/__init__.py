"""Tools: their declaration, and the worker that runs their calls.

Hands `Tool` to users and to the engine, `ToolRole` to the command line.
"""
