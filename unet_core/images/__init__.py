"""Images as users have them: which formats, what their headers say, read in place or in pieces."""
