"""From the text of an answer to a tree: ``reader.parse`` from the top, ``expressions`` the tree, the others beneath."""
