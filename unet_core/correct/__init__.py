"""Objects that a model found, as files to be corrected in an annotation tool and to be learnt from."""
