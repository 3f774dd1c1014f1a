"""The case browser: an index in a web page. `app.make_app` puts it together, `pages.PAGES` lists its pages."""
