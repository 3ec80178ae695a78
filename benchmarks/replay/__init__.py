"""Parts of the label-efficiency benchmark."""
