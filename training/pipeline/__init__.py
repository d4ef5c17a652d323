"""From images to trained members, stage by stage, each a hand-over of files."""
