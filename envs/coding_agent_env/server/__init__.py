"""The server's entry point; imports nothing of the client."""
