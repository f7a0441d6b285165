"""How each operation is written for the device it runs on: forms that compute the same, and the choice between them."""
