"""How what the book knows becomes documents, in the words of people."""
