"""How the bundled model in assets/ was made, start to finish: text, tokenizer, training, PDFs, model card.

Nothing in selfextend/ or app/ imports this package, and it reads no text but what it generates itself.
"""
