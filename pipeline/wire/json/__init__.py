"""What compiled readers and writers of JSON share: bytes by their address, and numbers."""
