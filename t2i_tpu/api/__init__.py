"""The Python interface: loads trained models, and draws and edits images with them."""
