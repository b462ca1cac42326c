"""A chat room in the memory of one process: python -m chat --port=8888."""
