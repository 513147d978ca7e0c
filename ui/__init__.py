"""The Gradio app: widgets to a spec, frames to the page. Knows no tensors and opens no weights."""
