"""The API and the console: what people and programs read in a browser or by HTTP, each what they may see."""
