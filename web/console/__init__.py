"""The console: pages that people read and decide in, made by the server, with small scripts of their own."""
