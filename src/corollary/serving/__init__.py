"""A model behind the HTTP interface that chat programs speak: OpenAI's completions and chat completions."""
