"""The round loop and what it asks, checks, combines and keeps."""
