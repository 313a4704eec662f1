"""One picture of a plant, folded from the records of its topics: records in, documents out."""
