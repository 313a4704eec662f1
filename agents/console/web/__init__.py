"""The console's web server: who may do what, the pages, the documents, their updates, and what people post."""
