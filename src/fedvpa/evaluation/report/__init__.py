"""Tables, figures and one self-contained page, from the JSON of a comparison."""
