"""One module per group of commands. Each returns data; nothing here prints, and nothing heavy is imported at the top."""
