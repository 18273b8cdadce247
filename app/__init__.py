from .gradio_stubs import leave_stubs_alone

leave_stubs_alone()  # before anything here imports Gradio
