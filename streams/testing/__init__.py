"""What users test with: real servers for a test session (`plugin`, found by pytest by itself) and virtual time
(`virtual_time`) for everything that waits.

Hands out its modules by name: this one imports nothing, because pytest loads the plugin wherever the package is
installed.
"""
