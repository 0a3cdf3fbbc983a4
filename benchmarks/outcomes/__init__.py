"""What became of requests: statistics, tables, files, pictures, comparisons."""
