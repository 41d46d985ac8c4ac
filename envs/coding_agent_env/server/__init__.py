"""The server's entry points; imports nothing of a client."""
