"""Its place puts tests/ on sys.path, so that helpers such as quicpair.py can be imported everywhere."""
