"""From scores to numbers, intervals, tables and archives."""
