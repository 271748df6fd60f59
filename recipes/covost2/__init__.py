"""CoVoST 2."""
