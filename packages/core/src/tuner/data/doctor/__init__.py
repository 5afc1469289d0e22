"""What is likely to be wrong with data sets, found before anything is computed."""
