"""The model outside of Python: its parts as graphs, directories that other libraries load, a page for a browser."""
