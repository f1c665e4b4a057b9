"""The options: what a configuration may say, read and checked before any work."""
