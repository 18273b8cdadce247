"""The app: `python app.py` opens it in the browser, `python app.py --help` says what can be set."""

from app.launch import main

if __name__ == "__main__":
    main()
