"""How a form says where in a record something stands: paths, and templates of texts."""
