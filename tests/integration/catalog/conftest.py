from tests.integration.catalogdb.conftest import lasting_site, site

__all__ = ["lasting_site", "site"]
