//! pilotlight-manifests
