"""What to write instead of a name or an argument that does not exist here: data, and the messages."""
