"""The kinds of files that hold tables: CSV, parquet and Excel."""
