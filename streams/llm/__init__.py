"""Talks to models at exactly the pace that their keys allow.

`bucket`, `limits` and `key_buckets` decide when a call may start; `providers` makes it; `model` and `messages` are what
a user declares and what is said. Hands `Model`, `Message` and `Reply` to handlers and the dispatcher to the runtime.
"""
