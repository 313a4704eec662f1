"""Tables as plants export them: CSV, parquet and Excel files, read by a description in YAML."""
