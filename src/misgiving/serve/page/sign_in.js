// Signing in: nothing of the last person at this browser remains.

sessionStorage.clear(); // notes that were not saved
document.getElementById("key").focus();
