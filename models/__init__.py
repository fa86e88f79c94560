"""Networks and mathematics: tensors and arrays in, tensors and arrays out; knows no database, no file and no clock."""
