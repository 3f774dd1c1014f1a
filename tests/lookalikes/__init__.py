"""Small made-up data sets with the file names, columns and habits of published ones; no id or value is from them."""
