"""The collections, where Chroma has them."""
