"""Chaos: every role is killed under load on a real Kafka, and what is left is checked from the topics alone."""
