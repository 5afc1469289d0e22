"""The page that shows a run: `index.html` in the output folder, and a contact sheet of every round of pictures."""
