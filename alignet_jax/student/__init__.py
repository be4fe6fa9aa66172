"""Student: a pretrained ViT whose similarities learn to match the teacher's."""
