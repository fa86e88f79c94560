"""A database server and a broker of one's own, without root or containers; the rest of the project knows their addresses alone."""
