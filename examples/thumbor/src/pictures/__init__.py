"""Thumbor's configuration (thumbor.conf), and the pictures that it makes others of (originals)."""
