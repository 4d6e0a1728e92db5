PREFIX="planted:"
